"""Makes bucket `models` and the keys of a user who may use it alone; prints them as JSON."""

import json

import boto3

OPTIONS = {
    "endpoint_url": "http://127.0.0.1:5055",
    "region_name": "us-east-1",
    "aws_access_key_id": "none",
    "aws_secret_access_key": "none",
}
boto3.client("s3", **OPTIONS).create_bucket(Bucket="models")
iam = boto3.client("iam", **OPTIONS)
iam.create_user(UserName="mlflow")
key = iam.create_access_key(UserName="mlflow")["AccessKey"]
statement = {"Effect": "Allow", "Action": "s3:*", "Resource": ["arn:aws:s3:::models", "arn:aws:s3:::models/*"]}
policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
iam.put_user_policy(UserName="mlflow", PolicyName="models", PolicyDocument=policy)
print(json.dumps({"access_key": key["AccessKeyId"], "secret_key": key["SecretAccessKey"]}))
